"""One file for each command: options in, one library call, result out."""
