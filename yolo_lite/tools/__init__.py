"""What people do beside training; nothing but cli and api imports it."""
