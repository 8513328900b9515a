"""Short sequences that lead to states which random programs rarely reach. Each runs alone, once per profile."""
