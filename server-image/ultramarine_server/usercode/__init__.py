"""Program of a worker process, which runs a user's code in the user's environment.

It needs Python 3.9 and the standard library. A model's format also needs the packages that the format's module imports.
"""
