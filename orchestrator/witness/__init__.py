"""The witness: a register that grants, for many clusters, anywhere but on a node of them."""
