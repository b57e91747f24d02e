"""The command line: one file a command, which parses, calls and prints.

It may use every room below; nothing imports it but `__main__`.
"""
