"""What happens after training: detections of files, streams and arrays."""
