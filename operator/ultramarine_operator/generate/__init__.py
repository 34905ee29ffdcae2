"""Writing of what follows from the kinds, the requirements and the tests: CRDs, rights, network rules, pages.

`python -m ultramarine_operator.generate` writes; with --check it only names files that are not fresh.
"""
