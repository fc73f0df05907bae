"""What a person sees: table, page, report and view."""
