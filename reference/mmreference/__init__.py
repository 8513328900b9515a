"""mmreference: one implementation of Linux memory management that is right, contract by contract."""
