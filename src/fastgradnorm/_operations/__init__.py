"""Operations: their rules, and their forms under vmap."""
