class MongoDB: pass
