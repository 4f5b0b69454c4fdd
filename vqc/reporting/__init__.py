"""What a person looks at: pages, plots, pictures, the live terminal."""
