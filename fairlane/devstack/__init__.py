"""The local stack without containers: services and stages as processes under one supervisor."""
