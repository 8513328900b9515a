"""Huge-page reservations and faults as of 2.6.19 to 2.6.27: pool, reserve, quota, reservation maps, both locking variants."""
