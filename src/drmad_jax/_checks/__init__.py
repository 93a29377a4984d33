"""What users pass in, looked at while it is traced: errors and warnings with the mend."""
