"""Everything with side effects: Ray, workers, clocks, disks."""
