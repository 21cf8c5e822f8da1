"""The package that scripts of the NixOS test driver import from, on Snowboot's own.

There is no logic here: every name is one of the package `snowboot`.
"""
