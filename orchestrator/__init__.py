"""Remembers and decides: the durable core. The only writer of plan state."""
