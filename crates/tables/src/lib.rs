//! What Starling replicates: registrations and hash tables as cells.
