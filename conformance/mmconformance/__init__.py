"""mmconformance: drives any implementation and judges it by the invariants of :mod:`mmspec`."""
