"""Owns the MCP servers that carry the tools."""
