"""The language models that may be asked, one module for each protocol that they speak.

    port         what a provider is asked and what it answers
    catalogue    which models there are, what they cost, and in which order they are asked
    wire         one request over HTTP: bounded in time and size, tried again where that is safe
    openai       Chat Completions, as most servers speak it          anthropic    Messages
    replay       answers that were recorded                          extractive   no model at all

Nothing outside of this package knows a protocol.
"""
