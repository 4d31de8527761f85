"""Operations: the durable background units that users see."""
