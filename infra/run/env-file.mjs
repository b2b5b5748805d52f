// Imported before a program: reads `.env`, or ends the process. The npm scripts do so with --import, so tests, which start the programs
// themselves, don't read a developer's .env.
import { loadEnvFile } from '../../core/env-file.mjs';

try {
  loadEnvFile();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
