"""A stand-in for `pulumi-resource-kubernetes` where the real one is not installed.

It speaks the engine's protocol and keeps the real one's ways as far as tests can tell: automatic names,
server-side apply with strict validation, the same awaits and replacements, drift seen by a refresh.
"""
