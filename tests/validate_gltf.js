// SPDX-License-Identifier: GPL-3.0-or-later
// Prints the Khronos validator's report on a file as JSON: node validate_gltf.js FOLDER_OF_GLTF_VALIDATOR FILE
const fs = require('fs');
const validator = require(process.argv[2]);
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[3])), { maxIssues: 0 })
  .then((report) => console.log(JSON.stringify(report)))
  .catch((error) => { console.error(error); process.exit(1); });
