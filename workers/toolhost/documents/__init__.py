"""Reads, indexes and serves a folder of documents: what research over local files rests on."""
