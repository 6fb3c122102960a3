"""Programs over the product: the demo, benches and drills. The product never imports them."""
