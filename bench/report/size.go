package report

import (
	"compress/gzip"
	"io"
	"os"
)

// Sizes are those of a file, and of it compressed as the layers of images are, in MB.
func Sizes(path string) (plain, compressed float64, err error) {
	f, err := os.Open(path) //nolint:gosec // what is to be measured
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }()
	var count counter
	packed := gzip.NewWriter(&count)
	n, err := io.Copy(packed, f)
	if err == nil {
		err = packed.Close()
	}
	return float64(n) / 1e6, float64(count) / 1e6, err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
