package main

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/versity/versitygw/iamapi"
)

const certificateLook = 5 * time.Second

// followCertificate loads tls.crt and tls.key of a mounted Secret, and loads them again after a change.
func followCertificate(stopped context.Context, folder string) (*iamapi.CertStorage, error) {
	certificate, key := filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	storage := iamapi.NewCertStorage()
	changed := modified(certificate)
	if err := storage.SetCertificate(certificate, key); err != nil {
		return nil, err
	}
	go func() {
		for {
			select {
			case <-stopped.Done():
				return
			case <-time.After(certificateLook):
			}
			now := modified(certificate)
			if now.Equal(changed) {
				continue
			}
			if err := storage.SetCertificate(certificate, key); err != nil {
				log.Printf("cannot load the renewed certificate: %v", err)
				continue
			}
			changed = now
		}
	}()
	return storage, nil
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
