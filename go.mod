module github.com/keyway-edge/keyway

go 1.26.0
