"""One small prior of every kind that codecs use."""
