"""One file a command: options in, one library call, result out."""
