"""Devices, one adapter per runtime; nothing here scores."""
