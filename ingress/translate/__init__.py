"""From the objects of a cluster to a routing table: pure functions, no I/O, no clock.

`compile_table` is the whole of it; `Compiler` gives the same result at the cost of what changed.
"""

from ingress.translate.compiler import Compilation, Compiler, compile_table

__all__ = ["Compilation", "Compiler", "compile_table"]
