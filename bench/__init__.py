"""Measures CAFS beside its rivals, in one run, and writes ``docs/benchmarks.md``.

``python -m bench [NAME...]`` runs the named cases, or all. Each case is a module of ``bench.cases`` with a
``run_case(place) -> Result``. It drives the installed command line and real programs.
"""
