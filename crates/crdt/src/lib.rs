//! Cells, orders, clocks, the store, sync sessions and digests: the lattice everything replicated lives in.
