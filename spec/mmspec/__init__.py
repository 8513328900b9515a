"""mmspec: an executable specification of Linux memory management.

This package says *what must hold*: invariants with stable ids (:mod:`mmspec.invariants`), the interfaces that an
implementation may provide (:mod:`mmspec.interfaces`), architecture profiles (:mod:`mmspec.arch`), and the sources of
it all (:mod:`mmspec.sources`). It imports neither the reference implementation nor the conformance suite.
"""

__version__ = "0.1.0"
