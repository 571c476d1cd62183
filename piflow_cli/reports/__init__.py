"""What commands leave behind to look at: pages, figures, pictures."""
