PLACEHOLDER = 1
class ArangoDB: pass
