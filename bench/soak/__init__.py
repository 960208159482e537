"""Nothing fails and memory stays flat while tables are swapped and endpoints come and go."""
