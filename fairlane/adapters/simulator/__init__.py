"""A model provider for tests, demos and benchmarks: OpenAI-compatible, scripted by the model's name.

:mod:`~fairlane.adapters.simulator.behaviour` lists the names, :mod:`~fairlane.adapters.simulator.answer`
says how tokens are counted, :mod:`~fairlane.adapters.simulator.server` serves. Start one with
``python -m fairlane.adapters.simulator --port 9999``.
"""
