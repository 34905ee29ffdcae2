"""Work of datasets in pods of TrainingJobs: profiles of tables, and imports. It reads and writes local files."""
