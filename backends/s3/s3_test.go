package s3_test

import (
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/s3"
)

func TestConformance(t *testing.T) {
	addr := sharedServer(t).addr
	for what, change := range map[string]func(o *s3.Options){
		"Plain":     func(*s3.Options) {},
		"Prefix":    func(o *s3.Options) { o.Prefix = "/some/where/" },
		"Locked":    func(o *s3.Options) { o.CreateLocked = true },
		"Versioned": func(*s3.Options) {},
		"SHA256":    func(o *s3.Options) { o.Checksum, o.Connections = s3.SHA256, 1 },
	} {
		t.Run(what, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Storage {
				o := options(addr)
				change(&o)
				s := open(t, o)
				if what == "Versioned" {
					if err := client(t, addr).EnableVersioning(t.Context(), o.Bucket); err != nil {
						t.Fatal(err)
					}
				}
				if o.Prefix != "" {
					// Others' files beside the repository, and some whose keys only look like below it.
					for _, key := range []string{"a", "some/wherever/a", "some/x", "some/where/tmp/a", "some/where/A"} {
						foreign(t, addr, o.Bucket, key)
					}
				}
				return s
			})
		})
	}
}

func foreign(t *testing.T, addr, bucket, key string) {
	t.Helper()
	if _, err := client(t, addr).PutObject(t.Context(), bucket, key, strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}
