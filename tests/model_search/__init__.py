"""An exhaustive search of the record's protocol over the machines that the product runs."""
