"""Pure: the words, the rules and the arithmetic. Imports nothing but the standard library."""
