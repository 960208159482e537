"""10,000 Ingresses, 2,000 Services, 20,000 endpoints: time to ready, edit to served, endpoint to served, memory."""
