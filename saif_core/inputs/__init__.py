"""What people bring: prompt pairs, instructions, documents, and what SAIF ships."""
