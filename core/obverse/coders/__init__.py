"""Entropy coders: what turns integer frequencies and symbols into bytes."""
