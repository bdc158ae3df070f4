"""Numbered SQL files, applied in order, never changed once released; the next number is a new file.

``{database}`` stands for the database. Statements end with ``;`` at the end of a line and must do no
harm when run again (``IF NOT EXISTS``), for several processes may apply them at once.
"""
