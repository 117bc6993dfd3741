"""What a registration is driven or trained by: similarity, regularity, supervision."""
