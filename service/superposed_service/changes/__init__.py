"""Everything that changes a store, as records of the journal, and their replay."""
