"""What PECOS leaves on disk: its parameter files and its model folders."""
