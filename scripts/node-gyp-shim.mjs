#!/usr/bin/env node
// What prebuildify runs as node-gyp: whatever it asks for (`rebuild`, `--target`, …), the addon in build/Release is brought up to date.
import './build-addon.mjs';
