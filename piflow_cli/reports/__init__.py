"""Reports: the pages, figures and pictures that commands leave behind."""
